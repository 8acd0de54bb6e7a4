"""What importance is worth: errors found, the order of the queue, Dice against the expert's minutes."""
