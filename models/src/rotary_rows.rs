//! The two orders in which files keep the rows of q and k: safetensors with the halves of each head one after the
//! other, GGUF of the llama family with the halves interleaved, so that rotated pairs are neighbours.

/// Whether the rows of the weight with GGUF's name `name` are rotated.
pub(crate) fn are_rotated(name: &str) -> bool {
    name.ends_with(".attn_q.weight") || name.ends_with(".attn_k.weight")
}

/// The row of the halved order that stands at `row` of the interleaved one.
pub(crate) fn halved_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// The row of the interleaved order that stands at `row` of the halved one.
pub(crate) fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + within % (head_dim / 2) * 2 + within / (head_dim / 2)
}

#[cfg(test)]
mod tests {
    use super::{halved_row, interleaved_row};

    #[test]
    fn orders_are_inverse_and_pair_the_halves() {
        assert_eq!((0..8).map(|row| halved_row(row, 8)).collect::<Vec<_>>(), [0, 4, 1, 5, 2, 6, 3, 7]);
        for row in 0..32 {
            assert_eq!(halved_row(interleaved_row(row, 8), 8), row);
        }
    }
}
