"""One CT from file to masks, beside a plain MONAI pipeline."""
