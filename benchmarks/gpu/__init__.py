"""The report of a GPU: what is right there, and what it takes; ``python benchmarks/gpu_report.py``.

``command`` runs ``parts``, each in processes of its own, which keep what they find in a ``folder``;
``page`` writes the report from that. ``build``, ``smoke``, ``gpu_tests``, ``training``, ``ops`` and
``sanitizers`` are what the parts do, on a ``device``.
"""
