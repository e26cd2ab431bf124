use super::{EncodeOptions, GgufVocabulary, TokenKind, Tokenizer};

#[test]
fn a_vocabulary_of_three_merges() {
    let tokens = vec!["a", "b", "Ġ", "ab", "Ġab", "<|x|>"];
    let mut kinds = vec![TokenKind::Normal; 5];
    kinds.push(TokenKind::Control);
    let vocabulary = GgufVocabulary {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens,
        kinds,
        merges: vec!["a b", "Ġ ab"],
        ..Default::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary).unwrap();
    let ids =
        tokenizer.encode("ab ab<|x|>", EncodeOptions { add_special: true, parse_special: true });
    assert_eq!(ids, [3, 4, 5]);
    assert_eq!(tokenizer.decode(&ids, false), "ab ab<|x|>");
    assert_eq!(tokenizer.decode(&ids, true), "ab ab");
}
