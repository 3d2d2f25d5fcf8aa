//! The seeds of a prompt's pictures, and the parts that divide prompts among workers.

use std::str::FromStr;

use unprompt_schemas::Uuid;
use unprompt_schemas::identity::prompt_id;

/// The choice of seeds for each prompt. Without both numbers, a prompt's own seeds are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seeds {
    /// The pictures of each prompt.
    pub count: Option<u64>,
    /// The first of consecutive seeds; absent for fresh seeds.
    pub first: Option<i64>,
}

impl Seeds {
    /// Returns a prompt's seeds. Fresh seeds are derived from `run` and the prompt, so they are the
    /// same within a run.
    pub fn of(self, run: Uuid, text: &str, own: &[i64]) -> Vec<i64> {
        if self == Self::default() && !own.is_empty() {
            return own.to_vec();
        }
        let fresh = |k: u64| {
            let of_picture = Uuid::new_v5(&run, format!("{} {k}", prompt_id(text)).as_bytes());
            (of_picture.as_u64_pair().0 >> 1) as i64
        };
        let seed = |k: u64| self.first.map_or_else(|| fresh(k), |first| first.wrapping_add(k as i64));
        (0..self.count.unwrap_or(1)).map(seed).collect()
    }
}

/// One of several parts of the prompts. Each prompt belongs to exactly one part, independent of the
/// other prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The number of the part, from 1.
    pub number: u64,
    pub of: u64,
}

impl Part {
    /// Returns whether the prompt belongs to the part.
    pub fn contains(self, text: &str) -> bool {
        prompt_id(text).as_u128() % u128::from(self.of) == u128::from(self.number - 1)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a part: write it like 2/8, from 1/8 to 8/8");
        let (number, of) = text.split_once('/').ok_or_else(wrong)?;
        let part =
            Self { number: number.parse().map_err(|_| wrong())?, of: of.parse().map_err(|_| wrong())? };
        if (1..=part.of).contains(&part.number) { Ok(part) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_seeds_depend_on_the_run_and_fixed_seeds_do_not() {
        let (run, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let three = Seeds { count: Some(3), first: None };
        let fresh = three.of(run, "a star", &[7]);
        assert_eq!(fresh.len(), 3);
        assert_eq!(fresh, three.of(run, "a star", &[]));
        assert_ne!(fresh, three.of(other, "a star", &[]));
        assert_ne!(fresh, three.of(run, "a ring", &[]));
        assert!(fresh.iter().all(|seed| *seed >= 0) && fresh[0] != fresh[1]);
        assert_eq!(Seeds { count: Some(2), first: Some(40) }.of(run, "a star", &[7]), [40, 41]);
        assert_eq!(Seeds::default().of(run, "a star", &[7, 9]), [7, 9]);
        assert_eq!(Seeds::default().of(run, "a star", &[]).len(), 1);
    }

    #[test]
    fn every_prompt_is_in_one_part() {
        let mut sizes = [0; 3];
        for at in 0..300 {
            let text = format!("a star number {at}");
            let parts: Vec<u64> =
                (1..=3).filter(|number| Part { number: *number, of: 3 }.contains(&text)).collect();
            assert_eq!(parts.len(), 1);
            sizes[parts[0] as usize - 1] += 1;
        }
        assert!(sizes.iter().all(|size| *size > 60), "{sizes:?}");
    }

    #[test]
    fn parts_are_counted_from_one() {
        assert_eq!("2/8".parse(), Ok(Part { number: 2, of: 8 }));
        for wrong in ["0/8", "9/8", "2", "a/b", "1/0", "-1/3"] {
            assert!(wrong.parse::<Part>().unwrap_err().contains("2/8"), "{wrong}");
        }
    }
}
