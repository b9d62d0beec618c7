"""Images in, labelled answers out."""
