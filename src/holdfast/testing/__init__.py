"""The test kit, shipped for people who write a store or an application."""
