"""The console: read-only web pages about one witness, for operator and auditor. Needs the extra `console`."""
