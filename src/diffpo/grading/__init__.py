"""Parse and grade what models write. Nothing here raises on any text, runs it, or lets it choose time or memory."""
