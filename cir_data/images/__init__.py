"""Images in memory and in files: geometry, reading, writing, metadata, facts of JPEG files."""
