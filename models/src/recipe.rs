//! Which element type each weight of a quantised file gets.

use kernels::GgmlType;

use crate::ModelConfig;

/// A way of choosing types for a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// llama.cpp's Q4_K_M: Q4_K, with Q6_K for the output matrix and, in about half of the layers, for `attn_v` and
    /// `ffn_down`.
    Q4KM,
    /// One type for every matrix.
    Uniform(GgmlType),
}

impl Recipe {
    /// The recipe of this name (`q4_k_m`, `q8_0`, `f16`…, in any case).
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("q4_k_m") {
            return Some(Self::Q4KM);
        }
        GgmlType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name)).map(Self::Uniform)
    }

    /// The type of the matrix with GGUF's name `name` whose rows have `columns` elements. Vectors are always F32.
    pub fn type_of(self, name: &str, columns: usize, config: &ModelConfig) -> GgmlType {
        let wanted = match self {
            Self::Uniform(ggml_type) => ggml_type,
            Self::Q4KM if keeps_six_bits(name, config) => GgmlType::Q6_K,
            Self::Q4KM => GgmlType::Q4_K,
        };
        // Rows that do not divide into the type's blocks take the next type whose blocks they fill.
        let candidates = [wanted, GgmlType::Q8_0, GgmlType::F16];
        candidates.into_iter().find(|t| columns.is_multiple_of(t.block_len())).unwrap_or(GgmlType::F16)
    }

    /// `general.file_type`, llama.cpp's number for the recipe.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::Q4KM => 15,
            Self::Uniform(ggml_type) => match ggml_type {
                GgmlType::F32 => 0,
                GgmlType::F16 => 1,
                GgmlType::Q4_0 => 2,
                GgmlType::Q4_1 => 3,
                GgmlType::Q8_0 => 7,
                GgmlType::Q5_0 => 8,
                GgmlType::Q5_1 => 9,
                GgmlType::Q2_K => 10,
                GgmlType::Q3_K => 12,
                GgmlType::Q4_K => 15,
                GgmlType::Q5_K => 17,
                GgmlType::Q6_K => 18,
                GgmlType::IQ4_NL => 25,
                GgmlType::IQ4_XS => 30,
                GgmlType::BF16 => 32,
            },
        }
    }
}

/// llama.cpp's choice for Q4_K_M: the output matrix (the embedding table where it serves as one), and `attn_v` and
/// `ffn_down` of the first and last eighth of the layers and of every third between.
fn keeps_six_bits(name: &str, config: &ModelConfig) -> bool {
    if name == "output.weight" || (name == "token_embd.weight" && config.tied_embeddings) {
        return true;
    }
    let mut parts = name.split('.');
    let (Some("blk"), Some(layer), Some("attn_v" | "ffn_down")) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (layers, eighth) = (config.num_layers, config.num_layers / 8);
    let layer: usize = layer.parse().unwrap_or(0);
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::Recipe;
    use crate::random::RandomModel;
    use kernels::GgmlType;

    #[test]
    fn q4_k_m_of_32_layers_keeps_half_of_them_at_six_bits() {
        let config = RandomModel::saiga_8b().config;
        let is_six = |layer: &usize| {
            Recipe::Q4KM.type_of(&format!("blk.{layer}.ffn_down.weight"), 14336, &config) == GgmlType::Q6_K
        };
        let six: Vec<usize> = (0..32).filter(is_six).collect();
        assert_eq!(six, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(Recipe::Q4KM.type_of("blk.0.ffn_up.weight", 4096, &config), GgmlType::Q4_K);
        assert_eq!(Recipe::Q4KM.type_of("blk.0.ffn_up.weight", 4096 + 32, &config), GgmlType::Q8_0);
        assert_eq!(Recipe::Q4KM.type_of("blk.0.ffn_up.weight", 100, &config), GgmlType::F16);
    }
}
