"""ctune: grow a CT segmentation model together with experts, class by class, forgetting nothing."""

__version__ = "0.1.0"
