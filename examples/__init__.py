"""Small applications on Holdfast, each with a promise that the crash lab checks."""
