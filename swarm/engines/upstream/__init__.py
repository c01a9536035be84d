"""Other people's OpenAI-compatible servers as engines. Which of them to ask belongs to routing/."""
