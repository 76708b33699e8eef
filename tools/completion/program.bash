# Completion of hammer and its fellows for bash, made by `hammer completion bash`; see hammer(8).
# Nothing that is typed or read is ever expanded or run: words are taken apart by hand and quoted before they are offered.

@TABLES@

# Take a word apart as the shell would. Sets raw: what it stands for; quote: the quote that is open at its end;
# kept: how many characters of raw stand before the place from where on readline replaces.
_hammer_unquote() {
    local word=$1 char i outside=0
    raw='' quote='' kept=0
    for ((i = 0; i < ${#word}; i++)); do
        char=${word:i:1}
        case $quote$char in
        "''" | '""')
            quote='' kept=$outside ;;
        "'" | '"')
            quote=$char outside=$kept kept=${#raw} ;;
        "'"?)
            raw+=$char ;;
        \\ | '"\')
            i=$((i + 1)) char=${word:i:1}
            [[ $quote == '"' && $char != [\"\\\$\`] ]] && raw+=\\
            raw+=$char ;;
        [:=@])
            # readline leaves an at sign in the word that it replaces, the others not
            [[ $COMP_WORDBREAKS == *"$char"* ]] && kept=$((${#raw} + 1))
            [[ $char == @ ]] && kept=$((kept > ${#raw} ? ${#raw} : kept))
            raw+=$char ;;
        *)
            raw+=$char ;;
        esac
    done
}

# Offer those of some words that begin with what is typed behind base, quoted as the place demands.
_hammer_offer() {
    local word
    for word; do
        word=$base$word
        [[ $word == "$raw"* ]] || continue
        word=${word:kept}
        case $quote in
        "'")
            word=${word//\'/"'\''"} ;;
        '"')
            [[ $word == *!* ]] && continue # history expansion can't be quoted here
            word=${word//\\/\\\\} word=${word//\"/\\\"} word=${word//\$/\\\$} word=${word//\`/\\\`} ;;
        *)
            [[ $word == *[^[:alnum:]_./:=@%+,-]* ]] && printf -v word %q "$word" ;;
        esac
        [[ -n $word ]] && COMPREPLY+=("$word")
    done
}

# Offer what a file system knows.
_hammer_ask() {
    local found=()
    mapfile -t found < <(command hammer completion "$1" -- "${plain[@]}" "${raw#"$base"}" </dev/null 2>/dev/null)
    _hammer_offer "${found[@]%%$'\t'*}"
}

# Offer what a kind of thing may be; the second argument is the key of its words.
_hammer_offer_kind() {
    local words
    read -ra words <<<"${_hammer_words[$2]-}"
    case $1 in
    words)
        [[ ${words[0]} == *= ]] && compopt -o nospace
        _hammer_offer "${words[@]}" ;;
    list)
        compopt -o nospace
        [[ $raw == *,* ]] && base=${raw%"${raw##*,}"}
        _hammer_offer "${words[@]}" ;;
    moment)
        _hammer_ask moments ;;
    tid)
        _hammer_ask tids ;;
    link-or-tid)
        _hammer_ask tids
        compopt -o default ;;
    pfs)
        [[ -n $volumes ]] && _hammer_ask pfs
        compopt -o default ;;
    inside)
        if [[ -n $volumes || $raw == *@@* ]]; then
            _hammer_ask paths
            [[ ${COMPREPLY[0]-} == */ ]] && compopt -o nospace
        fi
        compopt -o default ;;
    directory)
        compopt -o dirnames ;;
    file | volumes)
        compopt -o default ;;
    esac
}

# Put the pieces together again that readline makes of a word with a colon, an at sign or an equals sign in it:
# sets typed to the words before the one that is completed, and current to that one.
_hammer_words_typed() {
    local rest=$COMP_LINE i blanks
    typed=() current=''
    for ((i = 0; i <= COMP_CWORD; i++)); do
        blanks=${rest%%[^[:space:]]*}
        rest=${rest:${#blanks}}
        if ((i > 0)) && [[ -n $blanks || -z $rest ]]; then
            typed+=("$current")
            current=''
        fi
        current+=${COMP_WORDS[i]}
        rest=${rest#"${COMP_WORDS[i]}"}
    done
}

_hammer() {
    local typed plain=() current raw quote kept base='' key command word option='' ended='' volumes='' count=0 wanted=() kinds
    COMPREPLY=()
    _hammer_words_typed
    for word in "${typed[@]}"; do
        _hammer_unquote "$word"
        plain+=("$raw")
    done
    _hammer_unquote "$current"
    command=${plain[0]##*/}
    command=${_hammer_aliases[$command]-$command}
    key=$command
    for word in "${plain[@]:1}"; do
        if ((${#wanted[@]})); then
            wanted=("${wanted[@]:1}")
        elif [[ -z $ended && $word == -- ]]; then
            ended=1
        elif [[ -z $ended && $word == -?* ]]; then
            option="$key $word"
            [[ $word == -f ]] && volumes=${_hammer_values[$option]-}
            read -ra wanted <<<"${_hammer_values[$option]-}"
        elif [[ $key == "$command" && -n ${_hammer_verbs[$command]-} ]]; then
            key="$command $word"
            [[ -n ${_hammer_options[$key]-} ]] || return
        else
            count=$((count + 1))
        fi
    done
    if ((${#wanted[@]})); then
        _hammer_offer_kind "${wanted[0]}" "$option"
    elif [[ -z $ended && $raw == --*=* ]]; then
        option="$key ${raw%%=*}"
        base=${raw%%=*}=
        _hammer_offer_kind "${_hammer_values[$option]-nothing}" "$option"
    elif [[ -z $ended && $raw == -* ]]; then
        read -ra kinds <<<"${_hammer_options[$key]-}"
        _hammer_offer "${kinds[@]}"
    elif [[ $key == "$command" && -n ${_hammer_verbs[$command]-} ]]; then
        read -ra kinds <<<"${_hammer_verbs[$command]}"
        _hammer_offer "${kinds[@]}"
    else
        read -ra kinds <<<"${_hammer_arguments[$key]-}"
        ((count >= ${#kinds[@]} - 1)) && [[ ${#kinds[@]} -gt 1 && ${kinds[-1]} == ... ]] && count=$((${#kinds[@]} - 2))
        _hammer_offer_kind "${kinds[count]-nothing}" "$key $count"
    fi
    return 0
}

complete -F _hammer @NAMES@
