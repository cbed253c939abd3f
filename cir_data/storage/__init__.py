"""Where images are stored: folders and LMDBs behind one interface, and lists of images."""
