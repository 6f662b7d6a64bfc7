"""nginx beside Consul: watch, plan, prove, publish, reload, and prove again."""

__version__ = "0.1.0"
