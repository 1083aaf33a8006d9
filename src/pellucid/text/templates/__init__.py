"""Chat templates: a conversation written out as text, in a sandbox with a budget."""
