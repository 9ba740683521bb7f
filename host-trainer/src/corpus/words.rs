//! Words and sentences of the built-in corpus. Names are short, so that a small tokenizer has each
//! as one token.

/// First names; those of one document differ.
pub const FIRST_NAMES: &[&str] = &[
    "Ada", "Amos", "Anna", "Bela", "Bo", "Cara", "Dora", "Eli", "Emma", "Finn", "Greta", "Hugo",
    "Ida", "Ivan", "Jana", "Juno",
];

/// Surnames; drawn anew for every document.
pub const SURNAMES: &[&str] = &[
    "Abel", "Ames", "Arno", "Baker", "Bala", "Bell", "Berg", "Blum", "Bond", "Brand", "Cole",
    "Cruz", "Dahl", "Dane", "Diaz", "Drake", "Ford", "Fox", "Frost", "Gale", "Grant", "Haas",
    "Hale", "Hart", "Holm", "Horn", "Ito", "Kane", "Keller", "Kim", "King", "Varga",
];

/// First mention of a person.
pub const INTRODUCTIONS: &[&str] = &[
    "{0} is a {trade} in the {place}.",
    "{0} works as a {trade} near the {place}.",
    "{0} came to the {place} to be a {trade}.",
    "{0}, a {trade}, has a house by the {place}.",
    "Here we meet {0}, the new {trade}.",
    "A {trade} called {0} lives at the {place}.",
];

/// One person does something.
pub const EVENTS: &[&str] = &[
    "{time}, {0} found a {thing} in the {place}.",
    "{time}, {0} went to the {place}.",
    "{0} carried a {thing} to the {place}.",
    "{0} lost a {thing} near the {place}.",
    "The {thing} was a gift for {0}.",
    "Nobody saw {0} at the {place}.",
    "A letter came for {0}.",
    "The old {trade} asked about {0}.",
    "{0} sang a song for the {trade}.",
    "The {thing} in the {place} belongs to {0}.",
];

/// Two people do something.
pub const MEETINGS: &[&str] = &[
    "{0} gave the {thing} to {1}.",
    "{time}, {0} and {1} met at the {place}.",
    "{0} told {1} about the {thing}.",
    "{0} waited for {1} in the {place}.",
    "{time}, {0} bought a {thing} from {1}.",
    "{0} and {1} walked to the {place}.",
];

/// Sentences without a person.
pub const FILLERS: &[&str] = &[
    "It was a quiet day.",
    "The wind came from the sea.",
    "Rain fell on the {place}.",
    "The {place} was still.",
    "A bird sat on the {thing}.",
    "The door of the {place} was open.",
    "Everyone liked the {thing}.",
    "The road was long and dry.",
    "Soon the lamps were lit.",
    "The {thing} was old but good.",
];

/// Words of each slot.
pub const SLOTS: &[(&str, &[&str])] = &[
    (
        "trade",
        &[
            "baker", "sailor", "teacher", "miller", "doctor", "farmer", "painter", "smith",
        ],
    ),
    (
        "place",
        &[
            "mill", "harbour", "market", "garden", "school", "forest", "tower", "inn",
        ],
    ),
    (
        "thing",
        &[
            "lamp", "kite", "book", "clock", "basket", "coat", "map", "bell",
        ],
    ),
    (
        "time",
        &[
            "In the morning",
            "At noon",
            "In the evening",
            "At night",
            "Later",
            "The next day",
        ],
    ),
];
