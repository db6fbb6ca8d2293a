"""The front door: command line, bundle, reports."""
