"""One folder or module per platform: platform events become core messages, replies become platform calls. Nothing else lives here."""
