from recbole_llm.data.tokens import USER_SLOT
from tests.model.contract import PointwiseContract


class TestCoLLM(PointwiseContract):
    name = "CoLLM"
    crm = {"train_batch_size": 64, "embedding_size": 8}
    settings = {"text_history_len": 4, "lora_dropout": 0.0, "crm_config": crm}

    def test_the_prompt_shows_the_user_and_the_question_its_item(self, model, batch):
        assert model.crm.general
        assert (batch["prompt_items"] == USER_SLOT).sum(1).eq(1).all()
        shown = batch["branch_items"].amax(2)  # [B, C]
        assert (shown == batch["candidates"]).all()
