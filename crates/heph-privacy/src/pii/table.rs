//! The identifiers that are told by their picture and checksum, country by country.
//!
//! A row says how an identifier is written, what must hold inside it, which words stand near it, and who says so. To add
//! one, add a row: the scanner, the property tests and `heph pii --types` read this table.
//!
//! In a picture `9` is a digit, `A` a letter, `X` either, `_` a separator (space, `-`, `.`, `/`) that is the same throughout or
//! missing throughout, a small letter that letter in either case, and anything else itself.

use super::checks::{self, Check};

/// What must be there beside the right picture and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: picture and checksum together are rare enough.
    Nothing,
    /// One of its words, unless it is written with its separators.
    Grouped,
    /// One of its words, unless it stands in prose and not among other numbers.
    Prose,
    /// One of its words.
    Word,
}

/// How an identifier is recognised.
#[derive(Debug, Clone, Copy)]
pub struct Recogniser {
    /// Its own name, as `ES_DNI`.
    pub name: &'static str,
    /// The type that is reported.
    pub kind: &'static str,
    /// Its country in ISO 3166-1, or nothing where the world shares it.
    pub country: &'static str,
    /// How it is written: pictures between bars.
    pub pictures: &'static str,
    /// What must hold inside it.
    pub check: Check,
    /// What must be there besides.
    pub need: Need,
    /// Words that stand near it, between bars.
    pub words: &'static str,
    /// Who defines it.
    pub source: &'static str,
}

/// A row; without a kind of its own the name is what is reported.
#[expect(
    clippy::too_many_arguments,
    reason = "the cells of a row, in the order of the table"
)]
const fn row(
    name: &'static str,
    kind: &'static str,
    country: &'static str,
    check: Check,
    need: Need,
    pictures: &'static str,
    words: &'static str,
    source: &'static str,
) -> Recogniser {
    let kind = if kind.is_empty() { name } else { kind };
    Recogniser {
        name,
        kind,
        country,
        pictures,
        check,
        need,
        words,
        source,
    }
}

/// Words near payment cards.
pub(super) const CARD: &str = "card|credit card|debit card|card number|card no|cc|ccn|cc number|visa|mastercard|amex|\
    american express|maestro|discover|diners|jcb|unionpay|pan|payment|cvv|cvc|kreditkarte|karte|\
    kartennummer|carte|carte bancaire|carte bleue|tarjeta|carta|carta di credito|cartão|cartao|creditcard|\
    kaart|kredi kartı|kart|karta|karty|kartę|kartou|kortet|kort|kortnummer|kreditkort|luottokortti|картa|\
    карта|карты|bankkarte|creditcardnumber|card_number|cardnumber";

const PASSPORT: &str = "passport|passport no|passport number|passnummer|reisepass|reisepassnummer|pass-nr|passeport|pasaporte|\
    passaporto|passaporte|paspoort|paspoortnummer|paszport|paszportu|pas|cestovní pas|pasu|pasaport|passi|\
    pass nr|passnr|útlevél|pașaport|διαβατήριο|паспорт|паспорта|travel document";

const DRIVER: &str = "driver license|driver's license|drivers license|driver licence|driver's licence|driving licence|\
    driving license|license number|licence number|dl|dl number|dl no|dln|permis de conduire|permis|\
    führerschein|führerscheinnummer|patente|patente di guida|permiso de conducir|carnet de conducir|\
    carta de condução|cnh|rijbewijs|prawo jazdy|prawa jazdy|řidičský průkaz|körkort|kørekort|førerkort|\
    ajokortti|sürücü belgesi|ehliyet|driver_license|drivers_license";

const VAT: &str = "vat|vat id|vat no|vat number|ust-id|ust-idnr|ust.-idnr|ustid|uid|mwst|umsatzsteuer|tva|iva|btw|\
    btw-nummer|nip|dič|moms|momsnr|alv|áfa|ddv|pvm|kmkr|pvn|фпа|ндс|dds|vat_id|partita iva|p.iva|p. iva|\
    nif|tax id";

/// Words near numbers that tell a person or firm to the tax office, wherever that is.
const TAX_PT: &str = "nif|contribuinte|número de contribuinte|nipc|tax number|tax id";

use Need::{Grouped, Nothing, Prose, Word};

/// All of them. Where two read the same digits, the nearer word decides, then the earlier row.
#[rustfmt::skip]
pub(super) const TABLE: &[Recogniser] = &[
    // Payment.
    row("CREDIT_CARD", "CREDIT_CARD", "", card, Prose, "9999_9999_9999_9999 | 9999_999999_99999 | 9999_999999_9999",
        CARD,
        "ISO/IEC 7812-1; issuers' ranges"),
    row("CREDIT_CARD_LONG", "CREDIT_CARD", "", card, Prose, "99999999999999999 | 999999999999999999 | 9999999999999999999 | 9999_9999_9999_9999_999",
        CARD,
        "ISO/IEC 7812-1"),
    row("CREDIT_CARD_SHORT", "CREDIT_CARD", "", card, Word, "999999999999 | 9999999999999",
        CARD,
        "ISO/IEC 7812-1"),
    row("CREDIT_CARD_NAMED", "CREDIT_CARD", "", checks::luhn, Word, "999999999999 | 9999999999999 | 99999999999999 | 999999999999999 | 9999_9999_9999_9999",
        "credit card|debit card|card number|card no|credit card number|cc|kreditkarte|kartennummer|\
        carte bancaire|tarjeta|carta di credito",
        "ISO/IEC 7812-1, any issuer"),
    row("BIC", "BIC", "", checks::bic, Word, "AAAAAAXX | AAAAAAXXXXX",
        "bic|swift|swift code|bic/swift|swift-bic|bic-code|bic code",
        "ISO 9362"),
    row("LEI", "", "", checks::lei, Word, "XXXX99XXXXXXXXXXXX99",
        "lei|legal entity|legal entity identifier",
        "ISO 17442"),
    row("US_ABA_ROUTING", "", "US", checks::us_aba, Word, "999999999",
        "routing|routing number|aba|aba number|rtn|routing no|routing_number",
        "ABA routing number policy"),
    row("US_BANK_ACCOUNT", "", "US", checks::any, Word, "99999999 | 999999999 | 9999999999 | 99999999999 | 999999999999 | 9999-9999-9999",
        "account number|account no|acct|acct no|bank account|checking account|savings account|account #|\
        account_number",
        "banks' own forms"),
    row("GB_BANK_ACCOUNT", "", "GB", checks::any, Word, "99-99-99 99999999 | 99-99-99, 99999999",
        "sort code|sort-code|account number|bank details|account",
        "UK Finance, sort codes"),
    row("GB_SORT_CODE", "", "GB", checks::any, Word, "99-99-99",
        "sort code|sort-code|sortcode",
        "UK Finance, sort codes"),
    row("MX_CLABE", "", "MX", clabe, Word, "999999999999999999",
        "clabe|clabe interbancaria|cuenta clabe",
        "Banco de México, CLABE"),
    // Devices and vehicles.
    row("IMEI", "", "", checks::imei, Word, "999999999999999 | 99_999999_999999_9",
        "imei|device id|imei number|imei1|imei2",
        "3GPP TS 23.003"),
    row("VIN", "", "", checks::vin, Nothing, "XXXXXXXXXXXXXXXXX",
        "vin|vehicle|chassis|fahrgestellnummer|fin|bastidor|telaio",
        "ISO 3779; 49 CFR 565"),
    // United States and Canada.
    row("US_SSN", "", "US", checks::us_ssn, Nothing, "999-99-9999",
        SSN,
        "20 CFR 422.103; SSA randomization"),
    row("US_SSN_PLAIN", "US_SSN", "US", checks::us_ssn, Word, "999999999 | 999 99 9999 | 999.99.9999",
        SSN,
        "20 CFR 422.103"),
    row("US_ITIN", "", "US", checks::us_itin, Grouped, "999_99_9999",
        "itin|taxpayer|taxpayer id|individual taxpayer",
        "IRS Publication 1915"),
    row("US_EIN", "", "US", checks::us_ein, Word, "99-9999999",
        "ein|fein|employer identification|employer id|tax id|federal tax",
        "IRS Publication 1635"),
    row("US_NPI", "", "US", checks::us_npi, Word, "9999999999",
        "npi|national provider|provider id|provider identifier",
        "45 CFR 162.406"),
    row("US_DEA", "", "US", checks::us_dea, Word, "AA9999999",
        "dea|dea number|dea no|prescriber",
        "21 CFR 1301"),
    row("US_MBI", "", "US", us_mbi, Nothing, "9AX9_AX9_AA99",
        "mbi|medicare|beneficiary|medicare number",
        "CMS, Medicare beneficiary identifier"),
    row("US_DRIVER_LICENSE", "US_DRIVER_LICENSE", "US", checks::any, Word, "A9999999 | A99999999 | A999999999999 | A9999999999999 | A99999999999999 | 9999999 | 99999999 | 999999999 | \
        9999-99-9999 | A999-9999-9999 | AA999999 | A999-999-99-999-9 | A99-99-9999",
        DRIVER,
        "AAMVA, states' own forms"),
    row("US_PASSPORT", "PASSPORT", "US", checks::any, Word, "999999999 | A99999999",
        PASSPORT,
        "ICAO 9303; US Department of State"),
    row("CA_SIN", "", "CA", checks::ca_sin, Word, "999_999_999",
        "sin|social insurance|social insurance number|sin number|sin no|nas|assurance sociale|\
        numéro d'assurance sociale",
        "Employment Insurance Act; Service Canada"),
    row("CA_PASSPORT", "PASSPORT", "CA", checks::any, Word, "AA999999 | A999999AA",
        PASSPORT,
        "ICAO 9303; Passport Canada"),
    // Latin America.
    row("MX_CURP", "", "MX", checks::mx_curp, Nothing, "AAAA999999AAAAAAX9",
        "curp|clave única",
        "RENAPO, instructivo CURP"),
    row("MX_RFC", "", "MX", checks::mx_rfc, Word, "AAAA999999XXX | AAA999999XXX",
        "rfc|registro federal|contribuyente",
        "SAT, RFC"),
    row("BR_CPF", "", "BR", checks::br_cpf, Grouped, "999.999.999-99 | 99999999999",
        "cpf|cadastro de pessoas|contribuinte",
        "Receita Federal, CPF"),
    row("BR_CNPJ", "", "BR", checks::br_cnpj, Grouped, "XX.XXX.XXX/XXXX-99 | XXXXXXXXXXXX99",
        "cnpj|cadastro nacional",
        "Receita Federal, CNPJ"),
    row("BR_PIS", "", "BR", checks::br_pis, Grouped, "999.99999.99-9 | 99999999999",
        "pis|pasep|nit|nis|pis/pasep",
        "Caixa, PIS/PASEP"),
    row("BR_CNH", "BR_CNH", "BR", checks::any, Word, "99999999999",
        "cnh|carteira de habilitação|habilitação",
        "Denatran, CNH"),
    row("AR_CUIT", "", "AR", checks::ar_cuit, Grouped, "99_99999999_9",
        "cuit|cuil|afip",
        "AFIP, CUIT"),
    row("AR_DNI", "", "AR", checks::any, Word, "99.999.999 | 99999999",
        "dni|documento nacional|documento",
        "RENAPER, DNI"),
    row("CL_RUT", "", "CL", checks::cl_rut, Nothing, "99.999.999-X | 9.999.999-X | 99999999-X | 9999999-X",
        "rut|run|rol único|cédula",
        "Servicio de Impuestos Internos, RUT"),
    row("CO_NIT", "", "CO", checks::co_nit, Word, "999.999.999-9 | 999999999-9",
        "nit|dian",
        "DIAN, NIT"),
    row("PE_RUC", "", "PE", checks::pe_ruc, Word, "99999999999",
        "ruc|sunat",
        "SUNAT, RUC"),
    row("EC_CEDULA", "", "EC", checks::ec_cedula, Word, "9999999999 | 999999999-9",
        "cédula|cedula|ci|registro civil",
        "Registro Civil del Ecuador"),
    row("UY_CI", "", "UY", checks::uy_ci, Grouped, "9.999.999-9 | 9999999-9",
        "ci|cédula|cedula",
        "DNIC Uruguay"),
    row("VE_RIF", "", "VE", checks::ve_rif, Word, "A-99999999-9 | A999999999",
        "rif|seniat|cédula",
        "SENIAT, RIF"),
    // Britain and Ireland.
    row("GB_NINO", "", "GB", checks::gb_nino, Nothing, "AA_99_99_99_A | AA 999999 A | AA_999_999_A",
        "nino|national insurance|ni number|ni no|nin|insurance number",
        "HMRC, NIM39110"),
    row("GB_NHS", "", "GB", checks::gb_nhs, Word, "999_999_9999",
        "nhs|nhs number|nhs no|patient|health service",
        "NHS Data Dictionary"),
    row("GB_UTR", "", "GB", checks::gb_utr, Word, "9999999999 | 99999 99999",
        "utr|unique taxpayer|self assessment|tax reference",
        "HMRC, UTR"),
    row("GB_DRIVING_LICENCE", "DRIVING_LICENCE", "GB", checks::gb_driver, Nothing, "AAAAA999999AX9AA | AAAA9999999AX9AA | AAA99999999AX9AA | AAAAA 999999 AX9AA",
        DRIVER,
        "DVLA, driver number"),
    row("GB_PASSPORT", "PASSPORT", "GB", checks::any, Word, "999999999",
        PASSPORT,
        "ICAO 9303; HM Passport Office"),
    row("GB_VAT", "", "GB", checks::gb_vat, Word, "gb999999999 | gb 999 9999 99 | gb999 9999 99 | 999 9999 99",
        VAT,
        "HMRC, VAT"),
    row("IE_PPS", "", "IE", checks::ie_pps, Word, "9999999A | 9999999AA | 9999999 A | 9999999 AA",
        "pps|ppsn|pps number|pps no|personal public service",
        "Revenue, PPSN"),
    // France, Benelux, Switzerland, Austria.
    row("FR_NIR", "", "FR", checks::fr_nir, Grouped, "9 99 99 99 999 999 99 | 999999999999999 | 9 99 99 XX 999 999 99 | 99999XX99999999 | \
        9-99-99-99-999-999-99 | 9 99 99 99 999 999 99",
        "nir|sécurité sociale|securite sociale|numéro de sécu|sécu|n° ss|insee|carte vitale",
        "INSEE, NIR"),
    row("FR_SIREN", "", "FR", checks::luhn, Word, "999_999_999",
        "siren|rcs|n° siren",
        "INSEE, SIREN"),
    row("FR_SIRET", "", "FR", checks::fr_siret, Word, "99999999999999 | 999 999 999 99999",
        "siret|n° siret",
        "INSEE, SIRET"),
    row("FR_SPI", "", "FR", checks::fr_spi, Word, "9999999999999 | 99 99 999 999 999",
        "spi|numéro fiscal|fiscal|impôts|impots",
        "DGFiP, numéro fiscal"),
    row("FR_VAT", "", "FR", checks::fr_vat, Nothing, "frXX999999999 | fr XX 999999999 | frXX 999 999 999 | fr XX 999 999 999",
        VAT,
        "DGFiP, TVA intracommunautaire"),
    row("FR_PASSPORT", "PASSPORT", "FR", checks::any, Word, "99AA99999",
        PASSPORT,
        "ICAO 9303; ANTS"),
    row("FR_CNI", "", "FR", fr_cni, Word, "999999999999 | XXXXXXXXX",
        "cni|carte d'identité|carte nationale d'identité|carte nationale",
        "ANTS, carte nationale d'identité"),
    row("NL_BSN", "", "NL", checks::nl_bsn, Word, "999999999 | 9999.99.999 | 999 999 999 | 9999 99 999",
        "bsn|burgerservicenummer|sofinummer|sofi|sofi-nummer",
        "Wet algemene bepalingen burgerservicenummer"),
    row("NL_VAT", "", "NL", checks::nl_vat, Nothing, "nl999999999b99 | nl 999999999 b99 | nl999.999.999.b99",
        VAT,
        "Belastingdienst, btw-identificatienummer"),
    row("NL_PASSPORT", "PASSPORT", "NL", checks::any, Word, "AAXXXXXX9",
        PASSPORT,
        "ICAO 9303; RvIG"),
    row("BE_NN", "", "BE", checks::be_nn, Grouped, "99.99.99-999.99 | 99999999999 | 99.99.99 999.99 | 999999-999-99",
        "rijksregisternummer|registre national|numéro national|insz|niss|nationaal nummer|national number|\
        rrn",
        "Koninklijk besluit 3 april 1984"),
    row("BE_VAT", "", "BE", checks::be_vat, Grouped, "be9999999999 | be 9999.999.999 | be9999.999.999 | 9999.999.999",
        "btw|tva|vat|ondernemingsnummer|kbo|bce|numéro d'entreprise",
        "KBO, ondernemingsnummer"),
    row("LU_NIN", "", "LU", checks::lu_nin, Word, "9999999999999 | 9999 99 99 999 99",
        "matricule|nin|numéro d'identification|cns|identifikationsnummer",
        "Loi du 19 juin 2013, CTIE"),
    row("CH_AHV", "", "CH", checks::ch_ahv, Nothing, "999.9999.9999.99 | 9999999999999 | 999 9999 9999 99",
        "ahv|avs|ahv-nummer|ahvn|sozialversicherungsnummer|numéro avs",
        "AHV-Gesetz, Zentrale Ausgleichsstelle"),
    row("CH_UID", "", "CH", checks::ch_uid, Nothing, "che-999.999.999 | che999999999 | che 999 999 999",
        "uid|mwst|tva|iva|unternehmens-identifikation",
        "BFS, UID"),
    row("AT_SVNR", "", "AT", checks::at_svnr, Word, "9999 999999 | 9999999999 | 9999-999999 | 9999/999999",
        "svnr|sv-nr|sv-nummer|versicherungsnummer|sozialversicherung|sozialversicherungsnummer|sv nr",
        "Dachverband der Sozialversicherungsträger"),
    row("AT_VAT", "", "AT", checks::at_vat, Nothing, "atu99999999 | at u99999999",
        VAT,
        "BMF, UID-Nummer"),
    // Germany.
    row("DE_STEUER_ID", "", "DE", checks::de_idnr, Grouped, "99_999_999_999",
        "steuer-id|steuerid|steuer id|steueridentifikationsnummer|idnr|identifikationsnummer|id-nr|\
        steuerliche|steuer-identifikationsnummer|steuernummer|tax id|tin",
        "§ 139b AO, BZSt"),
    row("DE_RVNR", "", "DE", checks::de_rvnr, Nothing, "99_999999_A_999 | 99999999A999 | 99 999999 A 999",
        "rentenversicherung|rentenversicherungsnummer|sozialversicherungsnummer|sv-nummer|rvnr|\
        versicherungsnummer|vsnr",
        "VKVV, Deutsche Rentenversicherung"),
    row("DE_KVNR", "", "DE", checks::de_kvnr, Word, "A999999999",
        "krankenversicherung|krankenversichertennummer|versichertennummer|kvnr|krankenkasse|gkv|\
        versicherten-nr|versichertennr",
        "§ 290 SGB V, GKV-Spitzenverband"),
    row("DE_ID_CARD", "", "DE", de_card, Word, "XXXXXXXXX9 | XXXXXXXXX",
        "personalausweis|ausweis|ausweisnummer|personalausweisnummer|perso|ausweis-nr|id card",
        "PAuswV, BMI"),
    row("DE_PASSPORT", "PASSPORT", "DE", de_card, Word, "AXXXXXXXX | AXXXXXXXX9",
        PASSPORT,
        "PassV, BMI"),
    row("DE_VAT", "", "DE", de_vat, Grouped, "de999999999 | de 999999999 | de 999 999 999",
        VAT,
        "BZSt, USt-IdNr."),
    row("DE_STEUERNUMMER", "", "DE", checks::any, Word, "99/999/99999 | 999/999/99999 | 999/9999/9999 | 999/9999/9999",
        "steuernummer|steuer-nr|st.-nr|st-nr|finanzamt|stnr",
        "Finanzämter, Steuernummer"),
    row("DE_DRIVING_LICENCE", "DRIVING_LICENCE", "DE", letters_and_digits, Word, "XXXXXXXXXX9 | A999XX99X99",
        DRIVER,
        "FeV Anlage 8"),
    // Spain, Portugal, Italy.
    row("ES_DNI", "", "ES", checks::es_dni, Nothing, "99999999_A | 99.999.999-A | 99.999.999 A",
        "dni|nif|documento nacional",
        "Real Decreto 1553/2005"),
    row("ES_NIE", "", "ES", es_nie, Nothing, "A_9999999_A | A9999999A",
        "nie|extranjero|extranjería",
        "Real Decreto 557/2011"),
    row("ES_CIF", "", "ES", checks::es_cif, Word, "A99999999 | A9999999A | A-99999999",
        "cif|nif|sociedad|empresa",
        "Orden EHA/451/2008"),
    row("ES_NSS", "", "ES", checks::es_nss, Word, "99_9999999999 | 99/99999999/99 | 99 99999999 99 | 999999999999",
        "nss|naf|seguridad social|afiliación|numero de la seguridad social",
        "Tesorería General de la Seguridad Social"),
    row("ES_PASSPORT", "PASSPORT", "ES", checks::any, Word, "AAA999999 | AA999999",
        PASSPORT,
        "ICAO 9303; Real Decreto 896/2003"),
    row("PT_NIF", "", "PT", pt_nif, Word, "999_999_999 | pt999999999",
        TAX_PT,
        "Decreto-Lei 14/2013"),
    row("PT_CC", "", "PT", checks::pt_cc, Nothing, "99999999 9 AA9 | 999999999AA9 | 99999999 9AA9 | 99999999-9-AA9",
        "cartão de cidadão|cc|cidadão|bilhete de identidade",
        "IRN, cartão de cidadão"),
    row("IT_CODICE_FISCALE", "", "IT", checks::it_cf, Nothing, "AAAAAAXXAXXAXXXA | AAA AAA XXAXX AXXXA",
        "codice fiscale|cf|c.f.|cod. fisc",
        "DM 12 marzo 1974 n. 2227"),
    row("IT_PARTITA_IVA", "", "IT", it_piva, Word, "99999999999 | it99999999999 | it 99999999999",
        VAT,
        "Agenzia delle Entrate, partita IVA"),
    row("IT_ID_CARD", "", "IT", checks::any, Word, "AA99999AA | AA9999999 | AA 9999999",
        "carta d'identità|carta d'identita|carta di identità|c.i.|cie",
        "Ministero dell'Interno, CIE"),
    row("IT_PASSPORT", "PASSPORT", "IT", checks::any, Word, "AA9999999",
        PASSPORT,
        "ICAO 9303; Ministero dell'Interno"),
    row("IT_DRIVING_LICENCE", "DRIVING_LICENCE", "IT", checks::any, Word, "AA9999999A | u19999999A | A999999999",
        DRIVER,
        "Motorizzazione Civile"),
    // The north.
    row("SE_PERSONNUMMER", "", "SE", checks::se_pnr, Grouped, "999999-9999 | 99999999-9999 | 999999+9999 | 9999999999 | 999999999999",
        "personnummer|personnr|pnr|samordningsnummer|person-nr|födelsenummer",
        "Folkbokföringslagen 18 §, Skatteverket"),
    row("NO_FODSELSNUMMER", "", "NO", checks::no_fnr, Grouped, "999999 99999 | 99999999999",
        "fødselsnummer|fodselsnummer|personnummer|fnr|d-nummer|fødselsnr",
        "Folkeregisterforskriften"),
    row("DK_CPR", "", "DK", checks::dk_cpr, Word, "999999-9999 | 9999999999",
        "cpr|cpr-nr|cpr-nummer|cpr nr|personnummer|cpr.nr|cprnr",
        "CPR-loven"),
    row("FI_HETU", "", "FI", fi_hetu, Nothing, "999999-999X | 999999+999X | 999999a999X | 999999b999X | 999999y999X | 999999x999X",
        "hetu|henkilötunnus|henkilotunnus|sotu|personbeteckning",
        "Laki väestötietojärjestelmästä 661/2009"),
    row("IS_KENNITALA", "", "IS", checks::is_kt, Word, "999999-9999 | 9999999999",
        "kennitala|kt|kt.",
        "Þjóðskrá, lög nr. 140/2019"),
    row("EE_LT_PERSONAL_CODE", "", "EE", checks::baltic, Word, "99999999999",
        "isikukood|asmens kodas|personal code|isikukoodi|a.k.|asmens kodą",
        "EVS 585; Lietuvos gyventojų registras"),
    row("LV_PERSONAS_KODS", "", "LV", checks::lv_pk, Word, "999999-99999 | 99999999999",
        "personas kods|personas kodu|personas koda|p.k.|pk",
        "Iedzīvotāju reģistra likums"),
    // The middle and east of Europe.
    row("PL_PESEL", "", "PL", checks::pl_pesel, Word, "99999999999",
        "pesel|nr pesel|numer pesel|peselu",
        "Ustawa o ewidencji ludności"),
    row("PL_NIP", "", "PL", pl_nip, Grouped, "999-999-99-99 | 999-99-99-999 | 9999999999 | pl9999999999",
        "nip|numer identyfikacji podatkowej|vat",
        "Ustawa o zasadach ewidencji podatników"),
    row("PL_REGON", "", "PL", checks::pl_regon, Word, "999999999",
        "regon",
        "GUS, REGON"),
    row("PL_ID_CARD", "", "PL", checks::pl_card, Word, "AAA999999 | AAA 999999",
        "dowód|dowód osobisty|dowodu|dowodu osobistego|seria i numer|id card|nr dowodu",
        "Ustawa o dowodach osobistych"),
    row("PL_PASSPORT", "PASSPORT", "PL", checks::any, Word, "AA9999999 | AA 9999999",
        PASSPORT,
        "ICAO 9303; ustawa o dokumentach paszportowych"),
    row("CZ_SK_RODNE_CISLO", "", "CZ", checks::cz_rc, Grouped, "999999/9999 | 9999999999",
        "rodné číslo|rodne cislo|rč|r.č.|r. č.|rodného čísla|rodným číslem",
        "Zákon 133/2000 Sb.; zákon 301/1995 Z. z."),
    row("HU_TAJ", "", "HU", checks::hu_taj, Word, "999_999_999",
        "taj|taj-szám|taj szám|társadalombiztosítás",
        "1996. évi XX. törvény"),
    row("HU_ADOAZONOSITO", "", "HU", checks::hu_tax, Word, "9999999999",
        "adóazonosító|adóazonosító jel|adószám|tax id",
        "1996. évi XX. törvény"),
    row("RO_CNP", "", "RO", checks::ro_cnp, Word, "9999999999999",
        "cnp|cod numeric personal",
        "OUG 97/2005"),
    row("BG_EGN", "", "BG", checks::bg_egn, Word, "9999999999",
        "egn|егн|личен номер",
        "Закон за гражданската регистрация"),
    row("HR_OIB", "", "HR", hr_oib, Word, "99999999999 | hr99999999999",
        "oib|osobni identifikacijski broj",
        "Zakon o osobnom identifikacijskom broju"),
    row("JMBG", "", "RS", checks::jmbg, Word, "9999999999999",
        "jmbg|emšo|emso|embg|matični broj|maticni broj|јмбг|ембг",
        "Zakon o matičnom broju"),
    row("SI_DAVCNA", "", "SI", si_tax, Word, "99999999 | si99999999",
        "davčna|davčna številka|ddv|id za ddv",
        "Zakon o davčnem postopku"),
    row("GR_AMKA", "", "GR", checks::gr_amka, Word, "99999999999",
        "amka|αμκα|α.μ.κ.α",
        "Νόμος 3655/2008"),
    row("GR_AFM", "", "GR", gr_afm, Word, "999999999 | el999999999",
        "afm|αφμ|α.φ.μ|vat",
        "ΑΑΔΕ, ΑΦΜ"),
    row("TR_TCKN", "", "TR", checks::tr_tckn, Word, "99999999999",
        "tckn|tc kimlik|t.c. kimlik|kimlik|kimlik no|tc no|vatandaşlık|kimlik numarası|tc",
        "Nüfus Hizmetleri Kanunu 5490"),
    row("RU_INN", "", "RU", checks::ru_inn, Word, "9999999999 | 999999999999",
        "инн|inn",
        "Приказ ФНС ЕД-7-14/559"),
    row("RU_SNILS", "", "RU", checks::ru_snils, Grouped, "999-999-999 99 | 99999999999 | 999-999-999-99",
        "снилс|snils",
        "Федеральный закон 27-ФЗ"),
    row("RU_PASSPORT", "PASSPORT", "RU", checks::any, Word, "99 99 999999 | 9999 999999",
        PASSPORT,
        "Постановление 828"),
    row("UA_RNOKPP", "", "UA", checks::ua_rnokpp, Word, "9999999999",
        "рнокпп|іпн|ідентифікаційний код|rnokpp|ipn",
        "Наказ Мінфіну 822"),
    row("KZ_IIN", "", "KZ", checks::kz_iin, Word, "999999999999",
        "иин|iin|жсн",
        "Закон РК 223-III"),
    // Asia.
    row("IL_TEUDAT_ZEHUT", "", "IL", checks::il_tz, Word, "999999999 | 99999999-9",
        "teudat zehut|tz|ת.ז|תעודת זהות|israeli id|zehut",
        "Population Registry Law 1965"),
    row("IN_AADHAAR", "", "IN", checks::in_aadhaar, Grouped, "9999 9999 9999 | 999999999999 | 9999-9999-9999",
        "aadhaar|aadhar|uidai|uid|आधार",
        "Aadhaar Act 2016, UIDAI"),
    row("IN_PAN", "", "IN", checks::in_pan, Nothing, "AAAAA9999A",
        "pan|pan card|permanent account|pan no|pan number",
        "Income-tax Rules 114"),
    row("IN_GSTIN", "", "IN", checks::in_gstin, Nothing, "99AAAAA9999AXzX",
        "gstin|gst|gst no",
        "CGST Rules 2017"),
    row("IN_VOTER_ID", "", "IN", checks::any, Word, "AAA9999999",
        "voter|epic|voter id|electors",
        "Election Commission of India, EPIC"),
    row("IN_PASSPORT", "PASSPORT", "IN", checks::any, Word, "A9999999 | A99 99999",
        PASSPORT,
        "ICAO 9303; Passport Seva"),
    row("IN_DRIVING_LICENCE", "DRIVING_LICENCE", "IN", checks::any, Word, "AA99 99999999999 | AA9999999999999 | AA-9999999999999 | AA99-99999999999",
        DRIVER,
        "Motor Vehicles Act, Sarathi"),
    row("CN_RESIDENT_ID", "", "CN", checks::cn_ric, Nothing, "99999999999999999X",
        "身份证|身份證|resident id|id card|公民身份",
        "GB 11643-1999"),
    row("CN_PASSPORT", "PASSPORT", "CN", checks::any, Word, "A99999999 | AA9999999",
        "护照|passport",
        "ICAO 9303"),
    row("HK_HKID", "", "HK", checks::hk_hkid, Grouped, "A999999(X) | AA999999(X) | A9999999 | A999999-X",
        "hkid|hong kong id|身份證|identity card",
        "Registration of Persons Regulations"),
    row("TW_ID", "", "TW", checks::tw_id, Nothing, "A999999999",
        "身分證|national id|統一編號|taiwan id",
        "內政部, 國民身分證"),
    row("SG_NRIC", "", "SG", checks::sg_nric, Nothing, "A9999999A",
        "nric|fin|identity card",
        "National Registration Act, ICA"),
    row("KR_RRN", "", "KR", checks::kr_rrn, Nothing, "999999-9999999",
        "주민등록번호|resident registration|rrn|주민번호",
        "주민등록법"),
    row("JP_MY_NUMBER", "", "JP", checks::jp_mynumber, Word, "999999999999 | 9999_9999_9999",
        "マイナンバー|個人番号|my number|mynumber|individual number",
        "番号法"),
    row("JP_PASSPORT", "PASSPORT", "JP", checks::any, Word, "AA9999999",
        "旅券|パスポート|passport",
        "ICAO 9303"),
    row("TH_ID", "", "TH", checks::th_id, Grouped, "9-9999-99999-99-9 | 9999999999999 | 9 9999 99999 99 9",
        "บัตรประชาชน|เลขประจำตัว|thai id|citizen id|national id",
        "พ.ร.บ. บัตรประจำตัวประชาชน"),
    row("MY_NRIC", "", "MY", checks::my_nric, Grouped, "999999-99-9999 | 999999999999",
        "mykad|nric|ic number|ic no|kad pengenalan|no. kp|ic",
        "National Registration Regulations 1990"),
    row("ID_NIK", "", "ID", checks::id_nik, Word, "9999999999999999",
        "nik|ktp|nomor induk",
        "Undang-Undang 24/2013"),
    row("PH_SSS", "", "PH", checks::any, Word, "99-9999999-9",
        "sss|sss no|social security",
        "Social Security Act 2018"),
    row("PH_TIN", "", "PH", checks::any, Word, "999-999-999-999 | 999-999-999",
        "tin|bir",
        "Bureau of Internal Revenue"),
    row("PK_CNIC", "", "PK", checks::any, Word, "99999-9999999-9 | 9999999999999",
        "cnic|nadra|شناختی",
        "NADRA Ordinance 2000"),
    row("AE_EMIRATES_ID", "", "AE", checks::luhn, Nothing, "784-9999-9999999-9 | 784999999999999",
        "emirates id|eid|هوية",
        "Federal Authority for Identity"),
    row("SA_ID", "", "SA", sa_id, Word, "9999999999",
        "iqama|saudi id|national id|هوية|إقامة",
        "Ministry of Interior, Absher"),
    // Oceania and Africa.
    row("AU_TFN", "", "AU", checks::au_tfn, Word, "999_999_999",
        "tfn|tax file|tax file number",
        "Taxation Administration Act 1953, ATO"),
    row("AU_ABN", "", "AU", checks::au_abn, Grouped, "99 999 999 999 | 99999999999",
        "abn|business number",
        "A New Tax System (ABN) Act 1999"),
    row("AU_ACN", "", "AU", checks::au_acn, Word, "999 999 999 | 999999999",
        "acn|company number",
        "Corporations Act 2001"),
    row("AU_MEDICARE", "", "AU", checks::au_medicare, Word, "9999 99999 9 | 9999999999 | 9999-99999-9 | 9999 99999 9/9 | 99999999999",
        "medicare|medicare number|medicare card",
        "Services Australia"),
    row("AU_PASSPORT", "PASSPORT", "AU", checks::any, Word, "A9999999 | AA9999999",
        PASSPORT,
        "ICAO 9303; Australian Passport Office"),
    row("NZ_IRD", "", "NZ", checks::nz_ird, Word, "99_999_999 | 999_999_999",
        "ird|ird number|inland revenue",
        "Inland Revenue, IRD number validation"),
    row("NZ_NHI", "", "NZ", checks::nz_nhi, Word, "AAA9999",
        "nhi|health index|patient",
        "HISO 10046"),
    row("ZA_ID", "", "ZA", checks::za_id, Word, "9999999999999 | 999999 9999 999",
        "id number|identity number|sa id|rsa id|id no|south african",
        "Identification Act 68 of 1997"),
    row("NG_NIN", "", "NG", checks::any, Word, "99999999999",
        "nin|nimc|bvn",
        "NIMC Act 2007"),
    row("EG_NATIONAL_ID", "", "EG", checks::eg_id, Word, "99999999999999",
        "national id|الرقم القومي|رقم قومي",
        "Civil Status Law 143 of 1994"),
    row("KE_ID", "", "KE", checks::any, Word, "99999999",
        "kenyan id|huduma|kra|kitambulisho",
        "Registration of Persons Act"),
    // Value added tax by the other countries of the union, told by prefix and word.
    row("EU_VAT", "", "EU", checks::any, Word, "bg999999999 | bg9999999999 | cy99999999A | cz99999999 | cz9999999999 | dk99999999 | ee999999999 | \
        el999999999 | esX9999999X | fi99999999 | hr99999999999 | hu99999999 | ie9X99999A | ie9999999AA | \
        lt999999999 | lt999999999999 | lu99999999 | lv99999999999 | mt99999999 | pt999999999 | ro99999999 | \
        ro999999999 | se999999999901 | si99999999 | sk9999999999 | xi999999999 | pl9999999999 | it99999999999",
        VAT,
        "Council Directive 2006/112/EC, VIES"),
    // Health and other cards told by their words alone.
    row("EHIC", "", "EU", checks::luhn_or_any, Word, "80999999999999999999 | 80 999 99999 9999999999",
        "ehic|ghic|health insurance card",
        "Decision S1, Administrative Commission"),
    row("MRZ", "", "", mrz, Nothing, "AXXXXXXXX9AAA9999999A9999999XXXXXXXXXXXXXX99",
        PASSPORT,
        "ICAO 9303 part 4"),
];

const SSN: &str = "ssn|ssns|social security|social security number|social security no|social|soc sec|ss#|ssn#|\
    social_security|social_security_number";

/// Issuers' ranges with the lengths they give out.
fn card(c: &[u8]) -> bool {
    let head = |n: usize| {
        c.get(..n).map_or(0, |h| {
            h.iter()
                .fold(0_u32, |v, b| v * 10 + u32::from(b.wrapping_sub(b'0') % 10))
        })
    };
    let (two, three, four, six) = (head(2), head(3), head(4), head(6));
    let lengths: &[usize] = match (two, three, four, six) {
        (_, _, 1800 | 2131, _) => &[15],
        (_, _, 2200..=2204, _) => &[16, 17, 18, 19],
        (_, _, 2221..=2720, _) | (51..=55, ..) => &[16],
        (34 | 37, ..) => &[15],
        (_, 300..=305 | 309, ..) | (36 | 38 | 39, ..) => &[14, 16, 19],
        (_, _, 3500..=3599, _) => &[16, 17, 18, 19],
        (40..=49, ..) => &[13, 16, 19],
        (60 | 62 | 64 | 65, ..) | (81 | 82, ..) => &[12, 13, 14, 15, 16, 17, 18, 19],
        (50 | 56..=59 | 61 | 63 | 66..=69, ..) => &[12, 13, 14, 15, 16, 17, 18, 19],
        _ => &[],
    };
    lengths.contains(&c.len()) && checks::luhn(c)
}

fn clabe(c: &[u8]) -> bool {
    let sum = c
        .iter()
        .zip([3, 7, 1].into_iter().cycle())
        .take(17)
        .fold(0, |s, (b, w)| s + u32::from(b.wrapping_sub(b'0')) * w % 10);
    c.len() == 18 && (10 - sum % 10) % 10 == u32::from(c[17].wrapping_sub(b'0'))
}

/// Medicare's form: places 2, 5, 8 and 9 hold letters without S, L, O, I, B and Z.
fn us_mbi(c: &[u8]) -> bool {
    let letter = |b: u8| b.is_ascii_uppercase() && !b"SLOIBZ".contains(&b);
    c.len() == 11
        && c[0] != b'0'
        && [1, 4, 7, 8].into_iter().all(|i| letter(c[i]))
        && [2, 5].into_iter().all(|i| letter(c[i]) || c[i].is_ascii_digit())
}

fn fr_cni(c: &[u8]) -> bool {
    c.len() == 12 || letters_and_digits(c)
}

fn letters_and_digits(c: &[u8]) -> bool {
    c.iter().any(u8::is_ascii_digit) && c.iter().any(u8::is_ascii_uppercase)
}

/// Ten characters with their check digit, or the nine without it.
fn de_card(c: &[u8]) -> bool {
    let known = |b: &u8| b.is_ascii_digit() || b"CFGHJKLMNPRTVWXYZ".contains(b);
    checks::de_card(c) || c.len() == 9 && c.iter().all(known) && letters_and_digits(c)
}

fn de_vat(c: &[u8]) -> bool {
    c.get(2..).is_some_and(checks::mod11_10)
}

fn es_nie(c: &[u8]) -> bool {
    matches!(c.first(), Some(b'X'..=b'Z')) && checks::es_dni(c)
}

fn pt_nif(c: &[u8]) -> bool {
    checks::pt_nif(c.strip_prefix(b"PT").unwrap_or(c))
}

fn it_piva(c: &[u8]) -> bool {
    let c = c.strip_prefix(b"IT").unwrap_or(c);
    let office = c
        .get(7..10)
        .map(|o| o.iter().fold(0, |n, b| n * 10 + u32::from(b.wrapping_sub(b'0'))));
    c.len() == 11 && matches!(office, Some(1..=100 | 120 | 121 | 888 | 999)) && checks::luhn(c)
}

fn pl_nip(c: &[u8]) -> bool {
    checks::pl_nip(c.strip_prefix(b"PL").unwrap_or(c))
}

fn hr_oib(c: &[u8]) -> bool {
    let c = c.strip_prefix(b"HR").unwrap_or(c);
    c.len() == 11 && checks::mod11_10(c)
}

fn gr_afm(c: &[u8]) -> bool {
    checks::gr_afm(c.strip_prefix(b"EL").unwrap_or(c))
}

/// The century letter or sign is no part of the number.
fn fi_hetu(c: &[u8]) -> bool {
    match c.len() {
        10 => checks::fi_hetu(c),
        11 => checks::fi_hetu(&[&c[..6], &c[7..]].concat()),
        _ => false,
    }
}

fn si_tax(c: &[u8]) -> bool {
    let c = c.strip_prefix(b"SI").unwrap_or(c);
    let sum: u32 = c
        .iter()
        .take(7)
        .zip([8, 7, 6, 5, 4, 3, 2])
        .map(|(b, w)| u32::from(b.wrapping_sub(b'0')) * w)
        .sum();
    c.len() == 8 && c[0] != b'0' && (11 - sum % 11) % 10 == u32::from(c[7].wrapping_sub(b'0'))
}

fn sa_id(c: &[u8]) -> bool {
    matches!(c.first(), Some(b'1' | b'2')) && checks::luhn(c)
}

/// The second line of a passport's machine readable zone without fillers: number, birth, expiry and the whole.
fn mrz(c: &[u8]) -> bool {
    c.len() == 44 && checks::icao(&c[..10]) && checks::icao(&c[13..20]) && checks::icao(&c[21..28])
}
