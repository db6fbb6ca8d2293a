"""The first event of Yosys' Verilog."""

from hw.time_zero import evaluate_at_time_zero

MODULE = r"""
module a(x, y);
  input x;
  reg \$auto$verilog_backend.cc:2355:dump_module$7  = 0;
  always @* begin
    if (\$auto$verilog_backend.cc:2355:dump_module$7 ) begin end
    y = 0;
  end
  always @*
    z[3] = x;
  always @(posedge clk)
    w <= x;
endmodule
"""


def test_processes_begin() -> None:
    text = evaluate_at_time_zero(MODULE)
    assert "verilog_backend" not in text
    assert text.count("always @* begin\n    if (time_zero) begin end\n") == text.count("always @*") == 2
    assert "    z[3] = x;\n  end\n  always @(posedge clk)\n    w <= x;\nendmodule" in text
    assert text.index("module a(x, y);") < text.index("reg time_zero = 1;") < text.index("always")


def test_modules_without_processes_stay() -> None:
    module = "module b(x);\n  input x;\n  wire z = x;\nendmodule\n"
    assert evaluate_at_time_zero(module) == module
    assert evaluate_at_time_zero(module + MODULE).startswith(module)
