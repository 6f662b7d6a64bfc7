"""What reaches nginx's workers without a reload: a document in a file, which they read when they are asked to."""
