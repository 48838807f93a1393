"""
Tools to test a store, or an application on one: a contract suite, faults, a crash lab.

Shipped, so that people who write a store or an application can use them on their own.
"""
