//! From SQL and a catalog snapshot to plans that are valid on one node; our plan nodes and their codecs
