"""Always the most frequent answer, with probabilities that add up."""

import pytest
import torch

from pipeline.baselines.most_frequent import MostFrequentClass, MostFrequentTag


def test_classes_are_as_probable_as_they_were_frequent() -> None:
    model = MostFrequentClass(4)
    model.estimate(torch.tensor([2, 2, 2, 0, 2]))
    assert model(3).exp().numpy() == pytest.approx(
        torch.tensor([2 / 9, 1 / 9, 5 / 9, 1 / 9]).double().expand(3, 4).numpy()
    )


def test_a_word_has_the_tag_that_it_most_often_had() -> None:
    model = MostFrequentTag(num_words=5, num_tags=3)
    # Word 1 is tag 0 twice and tag 2 once; word 2 is 1 and 2 once each; 2 is the most frequent tag.
    model.estimate(torch.tensor([1, 1, 1, 2, 2, 3, 3]), torch.tensor([0, 0, 2, 1, 2, 2, 2]))
    overall = torch.tensor([3 / 10, 2 / 10, 5 / 10]).double()
    found = model(torch.tensor([1, 2, 3, 4])).exp()
    assert found.argmax(1).tolist() == [0, 2, 2, 2]
    assert found[0].tolist() == pytest.approx(((torch.tensor([2, 0, 1]) + overall) / 4).tolist())
    assert found[3].tolist() == pytest.approx(overall.tolist()), "a word that was never seen"
    assert found.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert (found > 0).all()


def test_no_prior_outweighs_one_occurrence() -> None:
    model = MostFrequentTag(num_words=3, num_tags=2)
    words = torch.tensor([0] * 1000 + [1])
    model.estimate(words, (words == 1).long())
    assert model(torch.tensor([1])).argmax().item() == 1


def test_buffers_are_the_whole_model() -> None:
    trained, loaded = MostFrequentTag(6, 3), MostFrequentTag(6, 3)
    trained.estimate(torch.tensor([4, 5]), torch.tensor([0, 2]))
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(loaded.logarithms, trained.logarithms)
    assert not list(trained.parameters())
