"""In: a configuration and its training split. Out: the conventional recommender (CRM), trained by RecBole, frozen, with its item and user vectors."""
