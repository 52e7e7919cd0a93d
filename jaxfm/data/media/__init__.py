"""What readers of images and of sound share: examples of a source, folders of files, files that are kept unread."""
