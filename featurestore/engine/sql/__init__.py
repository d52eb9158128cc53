"""SQL over history, journal and online store at one moment; see ``query``."""
