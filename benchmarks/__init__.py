"""What the package's speed and memory are, beside others and its goals: see CONTRIBUTING.md.

``ops`` and ``train_steps`` have what is measured, ``measuring`` how, ``reproduce`` the experiments
of the papers. ``python benchmarks limits --help`` starts a command.
"""
