//! The names that weights have in Hugging Face checkpoints of the Llama, Mistral and Qwen families.

/// Parts of a block: GGUF's name and Hugging Face's.
const BLOCK_PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Hugging Face's name of the weight that GGUF calls `name`.
pub(crate) fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.split_once('.')?;
    let (_, theirs) = BLOCK_PARTS.into_iter().find(|(ours, _)| *ours == part)?;
    Some(format!("model.layers.{layer}.{theirs}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::hugging_face_name;

    #[test]
    fn names_of_every_kind() {
        assert_eq!(hugging_face_name("output.weight").as_deref(), Some("lm_head.weight"));
        let bias = hugging_face_name("blk.12.attn_q.bias");
        assert_eq!(bias.as_deref(), Some("model.layers.12.self_attn.q_proj.bias"));
        assert_eq!(hugging_face_name("rope_freqs.weight"), None);
    }
}
