"""What a network has to beat: models that are counted or solved in one pass, without gradients."""
