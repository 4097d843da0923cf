"""What a connector keeps: rows, tables, transactions, and one module for each part of the state."""
