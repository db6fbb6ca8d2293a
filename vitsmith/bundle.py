"""The bundle: one folder with everything that one stage hands to the next, and a manifest with hashes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.program import Program
from hw.config import AcceleratorConfig
from quant.integer_network import IntegerNetwork

__all__ = ["Bundle", "BundleError", "write_if_changed"]


class BundleError(RuntimeError):
    """A stage misses what an earlier stage makes, or finds files that do not belong together."""


def write_if_changed(path: Path, content: bytes | str) -> bool:
    """Write a file only if its content differs, whole or not at all; return whether it was written."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    temporary.replace(path)
    return True


@dataclass(frozen=True)
class Bundle:
    """Paths and contents of a bundle folder. Loaders raise `BundleError` that names the command to run first."""

    path: Path

    @property
    def network_file(self) -> Path:
        """Quantized network."""
        return self.path / "network.safetensors"

    @property
    def config_file(self) -> Path:
        """Accelerator configuration."""
        return self.path / "config.json"

    @property
    def verilog_file(self) -> Path:
        """Generated accelerator."""
        return self.path / "accelerator.v"

    @property
    def interface_file(self) -> Path:
        """Description of the accelerator's ports."""
        return self.path / "interface.md"

    @property
    def manifest_file(self) -> Path:
        """SHA-256 of every file of the bundle."""
        return self.path / "manifest.json"

    def program_file(self, *, trace: bool) -> Path:
        """Compiled program; with `trace`, the one that stores every layer boundary."""
        return self.path / ("program-trace.bin" if trace else "program.bin")

    @property
    def predictions_file(self) -> Path:
        """Classes that the networks named for the test images evaluated so far."""
        return self.path / "predictions.json"

    def document_file(self, stage: str) -> Path:
        """Results of a stage as JSON."""
        return self.path / f"{stage}.json"

    def _require(self, path: Path, command: str) -> Path:
        if not path.exists():
            raise BundleError(f"{path} is missing; run `vitsmith {command} --bundle {self.path}` first")
        return path

    def load_network(self) -> IntegerNetwork:
        """The quantized network."""
        return IntegerNetwork.load(self._require(self.network_file, "quantize"))

    def load_config(self) -> AcceleratorConfig:
        """The accelerator configuration."""
        return AcceleratorConfig.from_json(self._require(self.config_file, "quantize").read_text())

    def load_program(self, *, trace: bool = False) -> Program:
        """The compiled program, checked against the bundle's configuration."""
        program = Program.load(self._require(self.program_file(trace=trace), "compile"))
        config_hash = self.load_config().hash
        if program.config_hash != config_hash:
            raise BundleError(
                f"{self.program_file(trace=trace)} was compiled for configuration {program.config_hash:016x}, but "
                f"{self.config_file} is {config_hash:016x}; run `vitsmith compile --bundle {self.path}`"
            )
        return program

    def load_verilog(self) -> str:
        """The generated Verilog, checked against the bundle's configuration."""
        text = self._require(self.verilog_file, "generate").read_text()
        config_hash = f"{self.load_config().hash:016x}"
        if config_hash not in text.partition("\n")[0]:
            raise BundleError(
                f"{self.verilog_file} was generated for another configuration than {self.config_file} ({config_hash}); "
                f"run `vitsmith generate --bundle {self.path}`"
            )
        return text

    def load_document(self, stage: str) -> dict[str, object]:
        """Results that a stage left."""
        return json.loads(self._require(self.document_file(stage), stage).read_text())

    def write_document(self, stage: str, document: Mapping[str, object]) -> None:
        """Leave a stage's results, and bring the manifest up to date."""
        write_if_changed(self.document_file(stage), json.dumps(document, indent=2) + "\n")
        self.write_manifest()

    def write_manifest(self) -> None:
        """Record the hash of every file."""
        files = sorted(p for p in self.path.iterdir() if p.is_file() and p != self.manifest_file)
        hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.suffix != ".partial"}
        write_if_changed(self.manifest_file, json.dumps(hashes, indent=2) + "\n")
