"""From noise to folders of images."""
