"""A wiki made from a folder of documents, by a pipeline for every document."""
