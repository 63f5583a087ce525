"""What is measured of models: knowledge, scaling, and later agreement, calibration, diversity and win rates."""
