"""What reaches nginx's workers without a reload: a document in a file, which nginx is told of and reads."""
