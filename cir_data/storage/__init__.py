"""Where images are stored: folders, LMDBs, raw pixels."""
