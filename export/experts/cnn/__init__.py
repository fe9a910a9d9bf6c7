"""VGG16 and ResNet50 on timm."""
