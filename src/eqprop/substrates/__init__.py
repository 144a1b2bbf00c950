"""Systems: scalar functions of real physics."""
