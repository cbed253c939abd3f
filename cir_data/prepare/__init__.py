"""Making a store of training or test images from folders (``basicsr prepare``)."""
