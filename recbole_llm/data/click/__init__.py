"""Questions about single items: labelled rows, what each user did before them, and prompts that end in Yes or No."""
