//! Numbers known beforehand, found in one or two steps: what every line looks up (its rate, its unit).

/// 2^64 over the golden ratio: spreads numbers that lie close to each other.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A set of distinct numbers, each with the place it had in the list it was made from.
#[derive(Clone, Debug)]
pub struct Slots {
    /// At least four times as many as there are numbers, so that a search soon meets an empty one.
    slots: Vec<Option<(u64, u32)>>,
    shift: u32,
}

impl Slots {
    pub fn of(numbers: impl ExactSizeIterator<Item = u64>) -> Slots {
        let size = (4 * numbers.len()).next_power_of_two().max(2);
        let mut made = Slots {
            slots: vec![None; size],
            shift: 64 - size.trailing_zeros(),
        };
        for (number, place) in numbers.zip(0..) {
            let slot = made.search(number);
            made.slots[slot].get_or_insert((number, place));
        }
        made
    }

    /// The place of this number in the list.
    #[inline]
    pub fn place(&self, number: u64) -> Option<usize> {
        self.slots[self.search(number)].map(|(_, place)| place as usize)
    }

    /// Where the number stands, or the empty slot where it would.
    #[inline]
    fn search(&self, number: u64) -> usize {
        let mut slot = (number.wrapping_mul(SPREAD) >> self.shift) as usize;
        while self.slots[slot].is_some_and(|(other, _)| other != number) {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_place_and_no_other_has_one() {
        for count in [0, 1, 2, 3, 50, 1_000] {
            let numbers: Vec<u64> = (0..count).map(|n| n * 250).collect();
            let slots = Slots::of(numbers.iter().copied());
            for (place, number) in numbers.iter().enumerate() {
                assert_eq!(slots.place(*number), Some(place));
            }
            for other in [1, 249, 251, count * 250, u64::MAX] {
                assert_eq!(slots.place(other), None, "{other} of {count}");
            }
        }
    }

    #[test]
    fn numbers_that_share_a_slot_stand_side_by_side() {
        let home = |number: u64| number.wrapping_mul(SPREAD) >> (64 - 4);
        let numbers: Vec<u64> = (0..).filter(|&n| home(n) == 15).take(3).collect();
        let slots = Slots::of(numbers.iter().copied());
        for (place, number) in numbers.iter().enumerate() {
            assert_eq!(slots.place(*number), Some(place));
        }
        assert!((0..)
            .filter(|&n| home(n) == 15)
            .skip(3)
            .take(9)
            .all(|n| slots.place(n).is_none()));
    }
}
