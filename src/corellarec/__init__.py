"""Train a recommender and a language model together; let each answer what it is good at."""
