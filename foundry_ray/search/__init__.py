"""The joint search over hyperparameters and compression: what to try, what to stop, what to choose. Sits on training, compression, evaluation.

Read `coordinator` for the decisions, `trial` for what one trial does, `study` for how the two meet on Ray.
"""
