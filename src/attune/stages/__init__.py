"""The lifecycle: curate, finetune, grade, register, serve, watch. Stages never import each other; they exchange records."""
