"""How everything is measured: contenders in turns, ratios within rounds, goals, the machine."""
