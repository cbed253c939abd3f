"""Making a store of training or test images out of folders."""
