"""The domain of doujie: messages in, resolved questions out. Imports nothing of ours outside ``core``."""
