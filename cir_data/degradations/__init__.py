"""What happens to a clean image before a network sees it: JPEG, double JPEG, reduction."""
