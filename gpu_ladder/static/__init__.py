"""The build gate: what compilers make of a kernel, held against budgets."""
