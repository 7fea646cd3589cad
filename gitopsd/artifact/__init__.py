"""What sources produce: trees of files, their archives and the store that keeps them."""
